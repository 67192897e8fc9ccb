// SPDX-License-Identifier: GPL-2.0
/* A driver that leaks on command: echo "KIND COUNT [SIZE]" > /sys/kernel/debug/leakdrv/cmd
 *
 * Kinds: kmalloc, kmem_cache, vmalloc, pages (SIZE is the order), percpu: lost. held: kept on a list, which is no leak; freeheld
 * gives these back. */
#include <linux/debugfs.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

struct leak_record {
	u64 id;
	char payload[312];
};

struct held {
	struct list_head list;
	char payload[480];
};

static struct kmem_cache *leak_cache;
static struct dentry *folder;
static LIST_HEAD(held_list);

static noinline void leak_one_kmalloc(size_t size)
{
	char *p = kmalloc(size, GFP_KERNEL);

	if (p)
		memset(p, 0x5a, size);
	OPTIMIZER_HIDE_VAR(p);
}

static noinline void leak_one_cache(void)
{
	struct leak_record *p = kmem_cache_zalloc(leak_cache, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(p);
}

static noinline void leak_one_vmalloc(size_t size)
{
	void *p = vmalloc(size);

	OPTIMIZER_HIDE_VAR(p);
}

static noinline void leak_one_pages(unsigned int order)
{
	struct page *p = alloc_pages(GFP_KERNEL, order);

	OPTIMIZER_HIDE_VAR(p);
}

static noinline void leak_one_percpu(size_t size)
{
	void __percpu *p = __alloc_percpu(size, 8);

	OPTIMIZER_HIDE_VAR(p);
}

static noinline void hold_one(void)
{
	struct held *p = kzalloc(sizeof(*p), GFP_KERNEL);

	if (p)
		list_add(&p->list, &held_list);
}

static void free_held(void)
{
	struct held *p, *next;

	list_for_each_entry_safe(p, next, &held_list, list) {
		list_del(&p->list);
		kfree(p);
	}
}

static ssize_t command(struct file *file, const char __user *user, size_t length, loff_t *offset)
{
	unsigned int count = 0, size = 256, i;
	char text[64], kind[16];

	if (length >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, user, length))
		return -EFAULT;
	text[length] = 0;
	if (sscanf(text, "%15s %u %u", kind, &count, &size) < 1)
		return -EINVAL;
	if (!strcmp(kind, "freeheld"))
		free_held();
	for (i = 0; i < count; i++) {
		if (!strcmp(kind, "kmalloc"))
			leak_one_kmalloc(size);
		else if (!strcmp(kind, "kmem_cache"))
			leak_one_cache();
		else if (!strcmp(kind, "vmalloc"))
			leak_one_vmalloc(size);
		else if (!strcmp(kind, "pages"))
			leak_one_pages(size > 10 ? 0 : size);
		else if (!strcmp(kind, "percpu"))
			leak_one_percpu(size);
		else if (!strcmp(kind, "held"))
			hold_one();
		else
			return -EINVAL;
	}
	return length;
}

static const struct file_operations operations = { .owner = THIS_MODULE, .write = command };

static int __init leakdrv_init(void)
{
	leak_cache = kmem_cache_create("leakdrv_rec", sizeof(struct leak_record), 0, SLAB_NO_MERGE, NULL);
	if (!leak_cache)
		return -ENOMEM;
	folder = debugfs_create_dir("leakdrv", NULL);
	debugfs_create_file("cmd", 0200, folder, NULL, &operations);
	return 0;
}

static void __exit leakdrv_exit(void)
{
	debugfs_remove_recursive(folder);
}

module_init(leakdrv_init);
module_exit(leakdrv_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("leaks on command");
